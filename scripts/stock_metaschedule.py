"""Tunes one TVMScript module with stock MetaSchedule and exports the winner as a shared library.

Usage: stock_metaschedule.py SCRIPT TARGET_JSON TRIALS SEED FOLDER [post-optimization]; prints one JSON line.
"""

import json
import os
import sys
import time

import tvm
from tvm.s_tir import meta_schedule as ms

SECS_FOR_IMPORTS = 600  # each build worker imports all tensor intrinsics first, about 30 s of CPU time
MAX_PER_ROUND = 64  # MetaSchedule's default; shorter searches have four rounds


def main():
    script, target, trials, seed, folder, *more = sys.argv[1:]
    with open(script, encoding="utf-8") as file:
        module = tvm.script.from_source(file.read())
    target = tvm.target.Target(json.loads(target))
    start = time.time()
    database = ms.tune_tir(
        mod=module,
        target=target,
        work_dir=folder,
        max_trials_global=int(trials),
        num_trials_per_iter=max(8, min(MAX_PER_ROUND, int(trials) // 4)),
        builder=ms.builder.LocalBuilder(max_workers=os.cpu_count(), timeout_sec=SECS_FOR_IMPORTS),
        runner=ms.runner.LocalRunner(timeout_sec=SECS_FOR_IMPORTS),
        seed=int(seed),
        post_optimization=more == ["post-optimization"],
    )
    secs = time.time() - start
    schedule = ms.tir_integration.compile_tir(database, module, target)
    library = os.path.join(folder, "stock.so")
    tvm.compile(schedule.mod, target=target).export_library(library)
    print(json.dumps({"secs": secs, "library": library}))


main()
