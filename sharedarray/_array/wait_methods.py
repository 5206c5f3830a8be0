"""Waiting for what other processes do with an array: notices, versions and rows."""

from __future__ import annotations

from operator import index
from typing import SupportsIndex

from sharedarray._array.growth_methods import GrowthMethods
from sharedarray._array.version_methods import VersionMethods
from sharedarray._notices import notices_of
from sharedarray._process_end import halting
from sharedarray._version_buffers import made_versions_of


class WaitMethods(GrowthMethods, VersionMethods):
    """The methods of `SharedArray` that tell other processes of new data, and that wait for them."""

    __slots__ = ()

    @halting
    def notify(self) -> int:
        """Wake all that `wait` for this array, because there are new data in it.

        Write the data first. The notice reaches all views of the block, in all processes.

        Returns
        -------
        int
            How many notices there have been, with this one.

        Raises
        ------
        BlockClosedError
            The array is closed (a `ValueError`).
        UnsupportedError
            The array is a file on disk.

        Examples
        --------
        >>> import sharedarray as sa
        >>> a = sa.zeros(3)
        >>> a[:] = 1
        >>> a.notify()
        1
        >>> a.wait(since=0)
        1
        """
        return notices_of(self._mapping("notify those that wait for")).notify()

    @halting
    def wait(
        self,
        version: SupportsIndex | float | None = None,
        timeout: float | None = None,
        *,
        since: int | None = None,
        longer_than: int | None = None,
    ) -> int:
        """Wait until a process calls `notify`, or until the array has a version, or is longer.

        Parameters
        ----------
        version : int, optional
            Wait until `version` is this one, or a later one. A number of type float is the timeout.
        timeout : float, optional
            Seconds to wait at most; no limit when None.
        since : int, optional
            The number that an earlier `wait` or `notify` returned: wait for a notice after that one, which
            may have come already. When None, for the next one from now on. -1 returns the number of now.
        longer_than : int, optional
            Wait until an array that grows has more rows than this, and take them over as `refresh` does.

        Returns
        -------
        int
            How many notices there have been, for the next `since`; or the version, or the new length.

        Raises
        ------
        TimeoutError
            It did not come in that time.
        ProducerDied
            The process that appended has died, and no other one appends. What it published is there.
        EOFError
            All processes that appended have closed the array, so that there will be no more rows.

        Examples
        --------
        >>> import sharedarray as sa
        >>> a = sa.zeros(3, name="awaited_array")
        >>> seen = a.wait(since=-1)  # before the other process is asked for data
        >>> sa.attach("awaited_array").notify()  # in any process
        1
        >>> a.wait(since=seen, timeout=5.0)
        1
        """
        if isinstance(version, float):
            if timeout is not None:
                raise TypeError("wait() has got two timeouts: a version is an int")
            version, timeout = None, version
        if sum(given is not None for given in (version, since, longer_than)) > 1:
            raise TypeError("wait() takes one of a version, since= and longer_than=")
        if version is not None:
            mapping = self._whole("wait for a version of")
            versions = made_versions_of(mapping)
            if not versions.wait_for(index(version), timeout):
                raise TimeoutError(f"{mapping.name!r} has no version {version} after {timeout} s")
            return versions.version
        if longer_than is None:
            return self._wait_for_notice(timeout, since)
        mapping, growth = self._growth("wait for rows of")
        found = growth.wait_longer(mapping, index(longer_than), timeout)
        self.refresh()
        if found < 0:
            raise EOFError(
                f"{mapping.name!r} has {len(self)} rows, and the processes that appended to it have closed it"
            )
        if found <= longer_than:
            raise TimeoutError(f"{mapping.name!r} has not more than {longer_than} rows after {timeout} s")
        return found

    def _wait_for_notice(self, timeout: float | None, since: int | None) -> int:
        mapping = self._mapping("wait for new data in")
        notices = notices_of(mapping)
        if since is not None and since < 0:
            return notices.version
        found = notices.wait(since, timeout)
        if not found:
            raise TimeoutError(f"no process has called notify() of {mapping.name!r} within {timeout} s")
        return found
