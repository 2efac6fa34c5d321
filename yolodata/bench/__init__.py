"""What `python -m yolodata.bench` measures, and how.

    benchmark ─ data (drawing, copying) ─ packing
       └─ rounds ─ session ══ pipe ══ child ─ loader_yolodata | loader_ultralytics | copy_bound
       └─ results (JSON) ─ table, plot, profile

Every measured loader lives in its own child process, which stays alive between rounds and is told
to run one slice at a time; the parent goes round the children, so that a ratio compares slices
that were measured one right after the other. Rows are data (`rows.Row`): a new loader is a new
row and a new maker in `subjects`, nothing else.
"""
