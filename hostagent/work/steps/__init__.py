"""A worker for each verb: do(step) has the effect, look(step) says how far a lost one got."""
