"""One script per figure, each against a baseline that runs in the same minutes: `python -m benchmarks.search --short`.

None of them touches a user's database: each starts a server of its own under a temporary folder.
"""
