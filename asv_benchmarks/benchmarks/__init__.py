"""asv benchmarks of fastcorr. `common` names the workloads; ../compare.py runs the same ones beside other libraries."""
