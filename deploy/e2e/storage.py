"""Kubernetes' own tests of a CSI driver ("External Storage"), against the driver as it is installed."""
import re
import subprocess
import time
import xml.etree.ElementTree as xml
from collections import Counter

import testbed

# What is left out, and why. All else runs, or says by itself which of the driver's abilities it wants (driver-BACKEND.yaml).
EVERYWHERE = {
    r"\[Disruptive\]": "ends kubelets and nodes; cases/restarts.py does",
    r"\[Serial\]": "wants the cluster to itself and takes hours",
}
LEFT_OUT = {
    "s3": {
        "should write files of various sizes": "appends to files that are closed, which S3 cannot",
        "is outside the volume": "makes symbolic links, which S3 does not have",
    },
    "nfs": {},
    "hdfs": {"is outside the volume": "makes symbolic links, which HDFS does not have"},
}
LEAST = 40


def run(cluster, focus="External.Storage"):
    """Runs those whose names `focus` finds. Lists every skip with its reason; how many passed, failed and were skipped."""
    begun = time.monotonic()
    log, left_out = cluster.run / "log" / "storage-e2e.log", EVERYWHERE | LEFT_OUT[cluster.backend]
    with open(log, "w") as out:
        # Its exit status says no more than the report.
        subprocess.run([testbed.SCRIPTS / "storage-e2e", testbed.HERE / f"driver-{cluster.backend}.yaml", focus, "|".join(left_out)],
                       stdout=out, stderr=subprocess.STDOUT, check=False)
    reports = sorted((cluster.run / "e2e").glob("junit*.xml"))
    if not reports:
        raise RuntimeError(f"Kubernetes' tests have left no report:\n{log.read_text()[-2000:]}")
    passed, failed, skipped = [], [], Counter()
    for spec in (spec for report in reports for spec in xml.parse(report).iter("testcase")):
        name, status = spec.get("name"), spec.get("status")
        if "External Storage" not in name or not re.search(focus, name):
            continue
        if status == "passed":
            passed.append(name)
        elif status == "skipped":
            skipped[name, reason(name, spec, left_out)] += 1
        else:
            failed.append(name)
            print(f"FAIL  {name}\n{''.join(spec.itertext())[-1500:]}")
    for name in passed:
        print(f"ok    {name}")
    for (name, why), count in sorted(skipped.items(), key=lambda one: (one[0][1], one[0][0])):
        print(f"skip  {name}: {why}")
    print(f"      {time.monotonic() - begun:.0f} s")
    assert len(passed) + len(failed) >= LEAST or focus != "External.Storage", f"only {len(passed) + len(failed)} specs ran"
    return len(passed), len(failed), sum(skipped.values())


def reason(name, spec, left_out):
    for pattern, why in left_out.items():
        if re.search(pattern, name):
            return why
    message = spec.find("skipped").get("message") or ""
    return message.removeprefix("skipped - ").splitlines()[0] if message else "no reason was given"
