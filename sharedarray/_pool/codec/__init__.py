"""Conversion of calls, arguments, results and exceptions to bytes, and back.

The modules, bottom to top; imports go downwards only:

==========  =======================================================================
account     how many bytes of each argument were sent by reference, copied and pickled
arrays      plain arrays: what stands for them in a stream, and their memory beside it
pickled     one message: a stream, the buffers that it left out, and their table
pickler     pickles of anything else, with shared arrays by reference
call        calls: the function's name, and the arguments
result      results
culprits    which part of a call or result cannot be sent
tracebacks  tracebacks of workers, which the caller formats
failures    exceptions
==========  =======================================================================

There are two formats. Numbers, text, arrays and NumPy's scalars travel in the format of `marshal` (PLAIN),
which takes a tenth of the time of a pickle. In such a stream a shared array is a tuple, and a plain array or
a scalar of NumPy's is a list: see `arrays`. Everything else is a pickle, with four things added, in this
order of precedence:

1. A plain array or `SharedArray` whose memory lies in a shared block, and any view of one, is sent as a
   reference to it. So is the memory of a subclass's instance, with the class and the attributes beside it
   (see `subclasses`). The sender keeps the array alive until the receiver has loaded it, so the reference
   needs no pin of its own: the pool keeps a task's arguments until the answer is in, and a worker keeps a
   result until it is told TAKEN.
2. A large plain array, contiguous or not, stays out of the pickle, and so does anything else that offers its
   buffers under protocol 5. They are copied once, into a slot (see `transport`).
3. Functions and classes that the receiver cannot import (those of a script, a notebook, an interactive
   session, lambdas, closures) are sent by value, by cloudpickle.
4. What multiprocessing can hand to another process (sockets, connections, managers' proxies) can be handed to
   a worker as well, since its reducers are consulted.
"""
