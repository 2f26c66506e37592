"""Runs of both stages that are killed, signalled and robbed of their disk must end as ones that nobody touched.

make torture N=100 SEED=0

``runs`` says what is run, ``interruptions`` what comes between, ``traps`` springs it inside a process, ``disks`` are
small ones, ``zygote`` starts processes without their imports, ``jobs`` waits for them, ``ends`` compares.
"""
