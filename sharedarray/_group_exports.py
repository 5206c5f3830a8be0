"""The members of a group in the forms of other libraries: dict, npz files, frames and datasets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sharedarray import _datasets
from sharedarray._array import SharedArray
from sharedarray._group_index import Index

if TYPE_CHECKING:
    import pandas
    import xarray

__all__ = ["GroupExports"]


class GroupExports(Mapping[str, SharedArray]):
    """The methods of `Group` that return its members in another form."""

    __slots__ = ()
    _index: Index

    @property
    def name(self) -> str | None:
        """The block's name."""
        raise NotImplementedError

    def to_dict(self) -> dict[str, SharedArray]:
        """Return a dict of the members, which are not copied.

        Returns
        -------
        dict of str to SharedArray
            In the order in which the members were made.

        Examples
        --------
        >>> import sharedarray as sa
        >>> g = sa.group("group_of_dict", {"x": (3, "f8"), "n": ((), "i8")})
        >>> {name: array.shape for name, array in g.to_dict().items()}
        {'x': (3,), 'n': ()}
        """
        return dict(self.items())

    def to_npz(self, file: Any, *, compressed: bool = False) -> None:
        """Write the members into an ``.npz`` file, from which `numpy.load` reads them.

        Parameters
        ----------
        file : path_like or file
            As for `numpy.savez`.
        compressed : bool, default False
            Whether to compress them, as `numpy.savez_compressed` does.

        Examples
        --------
        >>> import io
        >>> import numpy as np, sharedarray as sa
        >>> g = sa.share_group("group_of_npz", {"x": [1, 2], "y": [0.5]})
        >>> file = io.BytesIO()
        >>> g.to_npz(file)
        >>> sorted(np.load(io.BytesIO(file.getvalue())))
        ['x', 'y']
        """
        _datasets.write_npz(file, self, compressed=compressed)

    def to_pandas(self) -> pandas.DataFrame:
        """Return a frame with a column for each member; the columns are the members' memory.

        Of a group that was made of a frame, it is that frame, with its index and the order and names of its
        columns. All members must have one axis, of one length.

        Returns
        -------
        pandas.DataFrame
            Over the members' memory.

        Raises
        ------
        ImportError
            pandas is not installed.

        Examples
        --------
        >>> import pandas
        >>> import sharedarray as sa
        >>> frame = pandas.DataFrame({"x": [1, 2], "y": [0.5, 1.5]})
        >>> shared = sa.share_group("group_of_pandas", frame)
        >>> sa.attach("group_of_pandas").to_pandas().equals(frame)  # in any process
        True
        """
        return _datasets.to_pandas(self, self._index, self.name)

    def to_xarray(self) -> xarray.Dataset:
        """Return a dataset with a variable for each member; the variables are the members' memory.

        Axes without a name in `dims` are named after their member and number: ``rgb_0``.

        Returns
        -------
        xarray.Dataset
            Over the members' memory.

        Raises
        ------
        ImportError
            xarray is not installed.

        Examples
        --------
        >>> import xarray
        >>> import sharedarray as sa
        >>> g = sa.group("group_of_xarray", {"rgb": ((4, 6, 3), "u1")}, dims={"rgb": ("y", "x", "c")})
        >>> dataset = g.to_xarray()
        >>> isinstance(dataset, xarray.Dataset), dataset["rgb"].dims
        (True, ('y', 'x', 'c'))
        """
        return _datasets.to_xarray(self, self._index)
