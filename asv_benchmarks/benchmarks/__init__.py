"""asv benchmarks of fastcorr. What they time is named in `*_workloads`, for ../compare.py as well."""
