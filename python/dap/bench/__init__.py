"""What ``dap bench`` runs: dap beside what its users would pick instead, each rival in its best form.

Contenders take turns in one process with equal numbers of threads, and a time counts only if the result is right:
:mod:`dap.bench.race` has the rules, :mod:`dap.bench.cases` the sizes, :mod:`dap.bench.rivals` and
:mod:`dap.bench.rivals_torch` the rivals. The libraries come with ``pip install 'dap-distill[bench]'``.
"""
