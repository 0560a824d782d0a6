"""Writes the files of this folder with stock TVM 0.27: a small Relax function, and the tasks that MetaSchedule extracts from it."""

import os

import tvm
from tvm import relax
from tvm.s_tir import meta_schedule as ms

builder = relax.BlockBuilder()
x = relax.Var("x", relax.TensorType((8, 36), "float32"))
with builder.function("main", [x]):
    with builder.dataflow():
        shares = builder.emit(relax.op.nn.softmax(x))
        roots = builder.emit(relax.op.sqrt(shares))
        output = builder.emit_output(relax.op.astype(roots, "int32"))
    builder.emit_func_output(output)
module = relax.transform.LegalizeOps()(builder.get())
with open("relax.json", "w") as file:
    file.write(tvm.ir.save_json(module))
tasks = ms.relax_integration.extract_tasks(module, tvm.target.Target({"kind": "llvm", "mcpu": "x86-64", "num-cores": 1}))
for name in ["database_workload.json", "database_tuning_record.json"]:
    if os.path.exists(name):
        os.remove(name)
database = ms.database.JSONDatabase(work_dir=".")
for task in sorted(tasks, key=lambda task: task.task_name):
    print(task.task_name)
    database.commit_workload(task.dispatched[0])
    if task.task_name == "softmax":
        with open("softmax.json", "w") as file:
            file.write(tvm.ir.save_json(task.dispatched[0]))
os.remove("database_tuning_record.json")
