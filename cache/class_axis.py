"""The class axis of logits: the sorted labels of the clips in force, held to the classes that stored logits have."""

from collections.abc import Sequence

import numpy as np

from moodfuse.cache.blocks import Rows
from moodfuse.cache.errors import InputError


def on_axis(rows: Rows, classes: Sequence[str], *, where: str, remedy: str) -> np.ndarray | None:
    """Logits with their columns in the order of some classes; `None` where there are none.

    Parameters
    ----------
    rows : Rows
        With `axes`, the classes that the parts say their columns have; of parts that say none the width counts alone.
    classes : sequence of str
        Sorted labels, length C.
    where, remedy : str
        Begin and end the message.

    Returns
    -------
    ndarray of float32, shape (N, C)

    Raises
    ------
    InputError
        If the columns are of other classes.
    """
    logits = rows.arrays.get("logits")
    if logits is None:
        return None
    axes = rows.axes or ((*classes,),)
    for axis in axes:
        if len(axis) != logits.shape[1] or sorted(axis) != sorted(classes):
            found = ", ".join(axis) if len(axis) == logits.shape[1] else f"{logits.shape[1]} classes"
            raise InputError(
                f"{where}: its logits are of {found}, but the labels are {', '.join(classes)}; {remedy}"
            )
    if len(axes) > 1:
        raise InputError(f"{where}: its parts have the classes of their logits in different orders; {remedy}")
    if axes[0] == tuple(classes):
        return logits
    return np.ascontiguousarray(logits[:, [axes[0].index(label) for label in classes]])
