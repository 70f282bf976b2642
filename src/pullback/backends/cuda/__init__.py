"""CUDA through CuPy: the backend, and the kernels of `kernels/` as fused ops. Only this package imports CuPy, and it is
itself imported only when a CUDA device is asked for."""
