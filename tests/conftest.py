"""Settings for all tests."""

from hypothesis import settings

# A busy machine is no defect: time is measured by benchmarks, not by property tests.
settings.register_profile("project", deadline=None)
settings.load_profile("project")
