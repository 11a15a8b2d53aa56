"""The calls of other libraries, computed by fastcorr: same names, arguments, defaults and result types.

    fastcorr.compat.numpy        numpy.correlate, convolve
    fastcorr.compat.signal       scipy.signal.correlate, convolve, correlate2d, convolve2d, fftconvolve, oaconvolve,
                                 correlation_lags
    fastcorr.compat.ndimage      scipy.ndimage.correlate, convolve, correlate1d, convolve1d, and the filters that are
                                 built on them: gaussian, sobel, prewitt, laplace

Each module only puts arguments into the words of `fastcorr.correlate` and `fastcorr.convolve`. None of them needs the
library it stands in for. docs/migrating.md lists what differs on purpose, and tests/test_peers.py runs the libraries'
own tests with these functions in their place.
"""
