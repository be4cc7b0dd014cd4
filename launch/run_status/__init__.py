"""How far a run is: what a snapshot holds, and how it is read from the run folder and the queue of a cluster."""
