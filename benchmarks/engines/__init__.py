"""Every CPU engine on the same texts in one run: speed, latency, start, memory and agreement.

Run by ``make bench-engines``, or ``python -m engines --help`` from the folder above.
"""
