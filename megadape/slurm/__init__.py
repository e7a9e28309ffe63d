"""Runs on a Slurm cluster: scripts from a site's settings, submission, and what a job does when it is stopped.

slurm/*.sbatch are scripts that a user can take and edit, and the only source of what is submitted: rendering fills in
the part between their marks (see ``script``) from ``SiteSettings``. What a job asks on the way, whether there is
anything to do and what comes next, is decided by ``starts`` and ``verdict``, which know nothing of Slurm but the
environment, so that they also run in a container that has no Slurm.

run_dir/slurm/
  *.sbatch            what was submitted
  starts.jsonl        one row a start: job, restart, step of the newest checkpoint
  ended.json          why a chain ends, read by its later links
  JOB.RESTARTS/       environment.json, job.txt: what the start ran with
  logs/NODE.log       what the ranks on a node said, over all starts
"""
