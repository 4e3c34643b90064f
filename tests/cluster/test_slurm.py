"""The graph on a real Slurm: a controller and two nodes on this machine, one of which is killed in the middle."""

import json
import os
import re
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from freelib.run.records import RecordStore

pytestmark = pytest.mark.cluster
ROOT = Path(__file__).parents[2]
NOTEBOOK = "03_table3"
LASTING = ("config_digest", "pool_digest", "episode_accuracies", "accuracy_last", "history", "passes")

CONF = """
ClusterName=loopback
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
AuthInfo=socket={folder}/munge.socket
SlurmUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
SlurmdTimeout=15
MinJobAge=86400
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=1 RealMemory=65536
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=1 RealMemory=65536
PartitionName=all Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
"""


def wait_for(what, seconds, condition):
    """Waits until the condition holds, and gives its value; fails after some seconds."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, f"{what} took more than {seconds} s"
        time.sleep(1)
    return value


def told(*words):
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """A running Slurm; gives the process of each node, with which all that runs there ends."""
    with ExitStack() as open_sockets:
        taken = [open_sockets.enter_context(socket.socket()) for _ in range(3)]
        for each in taken:
            each.bind(("127.0.0.1", 0))
        ports = [each.getsockname()[1] for each in taken]
    (tmp_path / "state").mkdir()
    (tmp_path / "key").write_bytes(os.urandom(128))
    (tmp_path / "key").chmod(0o600)
    conf = tmp_path / "slurm.conf"
    conf.write_text(CONF.format(folder=tmp_path, host=socket.gethostname().partition(".")[0], ports=ports))
    monkeypatch.setenv("SLURM_CONF", str(conf))
    files = [f"--{n}-file={tmp_path}/munge.{n}" for n in ("log", "pid", "seed")]
    commands = {
        "munged": [
            "munged",
            "-F",
            "--force",
            f"--key-file={tmp_path}/key",
            f"--socket={tmp_path}/munge.socket",
            *files,
        ],
        "slurmctld": ["slurmctld", "-D"],
    }
    # with processes of its own; Snakemake's jobs know no SLURM_CONF, so the file is where Slurm looks for it
    node = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c"]
    at_home = f"mount --bind {tmp_path} /etc/slurm && exec slurmd -D -N"
    commands |= {name: [*node, f"{at_home} {name}"] for name in ("n1", "n2")}
    running = {}
    try:
        for name, command in commands.items():
            running[name] = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            if name == "munged":
                wait_for("munge", 20, (tmp_path / "munge.socket").exists)
        ready = ("sinfo", "-h", "-t", "idle", "-o", "%D")
        wait_for("Slurm", 60, lambda: subprocess.run(ready, capture_output=True, text=True).stdout.strip() == "2")
        yield running
    finally:
        for process in reversed(running.values()):
            process.kill()
            process.wait()


def test_a_graph_on_slurm_of_which_a_node_dies_gives_the_records_of_a_local_run(cluster, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    monkeypatch.setenv("FREELIB_PROGRESS", "off")
    monkeypatch.setenv("FREELIB_CACHE", str(tmp_path / "cache"))
    results = tmp_path / "results"
    command = ["snakemake", "-s", "workflow/Snakefile", "runs", "--executor", "slurm", "--jobs", "2", "--nolock"]
    command += ["--slurm-no-account", "--slurm-status-command", "squeue", "--slurm-logdir", str(tmp_path / "logs")]
    command += ["--seconds-between-status-checks", "5", "--latency-wait", "30"]
    command += ["--config", f"notebooks={NOTEBOOK}", f"results={results}", "minutes=0", "threads=1"]
    command += [f"python={sys.executable}"]
    with (tmp_path / "snakemake.log").open("w") as log:
        graph = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
    store = RecordStore(results / "smoke" / "records")
    busy = ("squeue", "-h", "-t", "running", "-w", "n2", "-o", "%i")

    def in_the_middle():
        assert graph.poll() is None, (tmp_path / "snakemake.log").read_text()
        return store.all() and told(*busy).split()

    wait_for("the first record", 600, in_the_middle)
    cluster["n2"].kill()
    status = graph.wait(timeout=1200)
    assert status == 0, (tmp_path / "snakemake.log").read_text()
    made = store.all()

    plan = json.loads((results / "smoke" / "plan.json").read_text())
    names = plan["notebooks"][NOTEBOOK]
    keys = [key for name in names for key in plan["jobs"][name]["keys"]]
    monkeypatch.setenv("FREELIB_CACHE", str(tmp_path / "local-cache"))
    run = [sys.executable, "workflow/jobs.py", "run", "smoke", *keys, "--results", str(tmp_path / "local")]
    subprocess.run(run, cwd=ROOT, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    local = RecordStore(tmp_path / "local" / "smoke" / "records").all()
    assert [{n: r[n] for n in LASTING} for r in made] == [{n: r[n] for n in LASTING} for r in local]

    jobs = told("scontrol", "show", "job", "-o").splitlines()
    lost = sum(int(re.search(r"Restarts=(\d+)", job)[1]) + ("NODE_FAIL" in job) for job in jobs)
    with capsys.disabled():
        print(f"\n{len(made)} records, {len(jobs)} jobs: {lost} lost with node n2, and repeated")
    assert lost >= 1
