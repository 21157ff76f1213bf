"""What one GPU does with the farm's models, in one command of eight minutes: `python -m benchmarks.gpu`.

A parent process that never touches the device (`conductor`) starts one that does (`performer`), which runs the parts in
the order of their worth (`programme`). What fails, hangs or breaks the device costs its own rows and nothing else.
"""
