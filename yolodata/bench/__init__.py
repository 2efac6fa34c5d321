"""What `python -m yolodata.bench` measures, and how.

    benchmark (arguments) ─ rows ─ data (drawing, coco)
       ├─ rounds ─ session ══ pipe ══ server, trainer ─ loader_yolodata, loader_ultralytics,
       │   load                                         peers, ceilings, kernel
       └─ results (JSON) ─ report, plot

A *row* is one line of the table. What it measures is a *subject*: batches, one after another for
ever. A child process serves one loader, or all rows that train one model. The parent goes round the
rows and has each take one slice, so that a ratio compares slices that were measured one right after
the other. The server yields the batches of a slice to whoever consumes them. For a loader that is a
loop which drops them; for training it is Ultralytics' own loop, which takes a step on each. So
loaders and training steps share everything but that loop.
"""
