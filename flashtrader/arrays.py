"""Arrays of numbers, as annotations call them."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
