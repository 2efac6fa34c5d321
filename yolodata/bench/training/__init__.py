"""`python -m yolodata.bench train`: what a training step gains or loses by its loader.

    benchmark ─ data ─ rows
       └─ rounds ─ session ══ pipe ══ child ─ trainer ─ feeds
       └─ report (JSON, table)

A step is Ultralytics' own: the child runs its trainer's loop, whose loader is a switch. The parent
says how many steps to take on which feed; the switch hands out batches of that feed, and times
them. So all feeds train the same model in the same process, in turns, and a GPU has to hold one
model only. Cores are another child each.
"""
