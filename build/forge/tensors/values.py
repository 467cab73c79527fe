"""Looks at the values of a tensor while its bytes pass: whether each is a finite number.

The bits of floats sort as the floats do, the negative ones turned round, so the largest bits of a
block tell whether a NaN or an infinity is in it. That takes two passes over memory that is in the
cache, and no copy.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from forge.tensors.tensorfile import DTYPE_BYTES, Spec

# The bits from which on a magnitude is no finite number.
_NOT_FINITE: Mapping[str, int] = {
    "BF16": 0x7F80, "F16": 0x7C00, "F32": 0x7F80_0000, "F64": 0x7FF0_0000_0000_0000,
    "F8_E5M2": 0x7C, "F8_E4M3": 0x7F,
}  # fmt: skip
# Those that are an infinity; all above are NaN. E4M3 has none.
_NO_INFINITY = "F8_E4M3"
_BLOCK = 1 << 17


class Values:
    """Looks at the values of one tensor, from its front on; integers are always finite.

    With `extremes` it also keeps the smallest and the largest bits, read as unsigned numbers. Those
    of positive floats sort as the floats do, and above them are those of negative ones.
    """

    def __init__(self, spec: Spec, *, extremes: bool = False) -> None:
        self.name = spec.name
        self.extremes: tuple[int, int] | None = None
        self._of_extremes = extremes
        self._spec = spec
        self._limit = _NOT_FINITE.get(spec.dtype)
        self._width = DTYPE_BYTES[spec.dtype]
        self._unsigned = np.dtype(f"<u{self._width}")
        self._signed = np.dtype(f"<i{self._width}")
        self._sign = 1 << (8 * self._width - 1)
        self._seen = 0
        self._rest = bytearray()  # of a value whose other bytes have yet to pass
        self._found: tuple[int, int] | None = None

    def update(self, data: memoryview) -> None:
        """Takes the next bytes of the tensor."""
        if self._limit is None or self._found is not None:
            return
        if self._rest:
            missing = self._width - len(self._rest)
            self._rest += data[:missing]
            data = data[missing:]
            if len(self._rest) < self._width:
                return
            self._look(np.frombuffer(bytes(self._rest), self._unsigned), self._limit)
            self._rest.clear()
        whole = len(data) - len(data) % self._width
        for start in range(0, whole, _BLOCK):
            block = data[start : min(start + _BLOCK, whole)]
            self._look(np.frombuffer(block, self._unsigned), self._limit)
        self._rest += data[whole:]

    @property
    def fault(self) -> str | None:
        """The first value that is no finite number, and its index, in words."""
        if self._found is None or self._limit is None:
            return None
        position, bits = self._found
        index = [int(part) for part in np.unravel_index(position, self._spec.shape)]
        value = "NaN"
        if bits & ~self._sign == self._limit and self._spec.dtype != _NO_INFINITY:
            value = "-infinity" if bits & self._sign else "infinity"
        return f"holds {value} at {index}"

    def _look(self, bits: npt.NDArray[np.unsignedinteger], limit: int) -> None:
        positive, negative = int(bits.view(self._signed).max()), int(bits.max())
        if self._found is None and (positive >= limit or negative >= self._sign | limit):
            magnitudes = bits & self._unsigned.type(self._sign - 1)
            first = int(np.argmax(magnitudes >= limit))
            self._found = self._seen + first, int(bits[first])
        if self._of_extremes:
            low, high = self.extremes or (negative, negative)
            self.extremes = min(low, int(bits.min())), max(high, negative)
        self._seen += bits.size
