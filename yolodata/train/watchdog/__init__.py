"""Who notices that a process of a run is gone, frozen or hangs, and how the others end."""
