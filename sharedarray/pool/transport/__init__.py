"""How a pool and its workers exchange messages, and wait for them.

========  =====================================================================
pipes     the pipes between two processes; wakers; descriptors for exits
poller    waiting for many descriptors at once
messages  the messages, byte for byte
spin      polling for a short time before a thread sleeps
channel   one end of two pipes; why it cannot deadlock
========  =====================================================================
"""
