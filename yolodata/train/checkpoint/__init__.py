"""The state of a run: what it is, when it is written, where it is kept, how it is taken up again.

    state                the trainer's numbers, as plain data
    file, writer         on disk: whole or not there; written by a thread
    run_folder           beside Ultralytics' weights and table of results
    continuation         which settings it may be taken up with
    export               as weights that Ultralytics loads
    weights              whether a file of those holds nothing else
    object_store         at a URL: whole or not there; `places`: which operations that takes
    uploader             to a URL in the background, and back
    manifest, arrivals, contents
                         what is believed of what lies there: what a manifest says, which files
                         belong to a run, what is in them
    saver                when all this happens

Nothing here knows a trainer: each file says in a protocol what it needs of one.
"""
