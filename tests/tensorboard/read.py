"""Everything that TensorBoard finds in the event files of a folder, as JSON: {tag: [[step, value], ...]}.

Ends with 77 where the tensorboard package is not there.
"""
import json
import sys

try:
    from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator
except ImportError:
    sys.exit(77)

# 0: keep all values, not a sample.
events = EventAccumulator(sys.argv[1], size_guidance={SCALARS: 0})
events.Reload()
times = [e.wall_time for tag in events.Tags()["scalars"] for e in events.Scalars(tag)]
assert all(abs(time - max(times)) < 3600 for time in times), "wall times"
scalars = {tag: [[e.step, e.value] for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
json.dump({"file_version": events.file_version, "scalars": scalars}, sys.stdout)
