"""Dagster's shell around the stages: resources, jobs, sensors, schedules, runs."""

import warnings

# Partition mappings and backfill policies have been 'beta' for years; their warning is repeated by every process.
warnings.filterwarnings("ignore", message=r"(?s).*is currently in beta, and may have breaking changes")
