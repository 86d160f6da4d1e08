"""The guardian: the separate process that resumes guests when the daemon or command cannot.

Layer: guardian; standard library and libvirt only, nothing of ours. Read it in this order:
process (who is who in /proc), connect and probe (libvirt that can be given up), qmp (a guest's
own monitor), daemon (a libvirtd that hangs), target, by_libvirt and resume (the one way back), wire
(what both ends say), guard and __main__ (the process itself).
"""
