"""Checks what is in deploy/kubernetes and deploy/nomad: manifests.py DEPLOY NATS_SERVER

Each manifest against the schemas of Kubernetes, then whether they fit together: a name that is misspelt in one of two places
is right for the schemas. The settings of the NATS server are read by the server itself.
"""

import base64
import os
import pathlib
import re
import subprocess
import sys
import tempfile

import hcl2
import kubernetes_validate
import yaml

# The oldest in which a preStop hook can sleep, and the newest that the package knows.
VERSIONS = ["1.30", "1.37"]
# They have schemas of their own, which are not in the package.
FOREIGN = {"Kustomization", "ScaledObject"}
WORKLOADS = {"Deployment", "StatefulSet"}
# Not for every cluster, or for others than these.
OPTIONAL = {"keda.yaml", "keda-prometheus.yaml", "hpa.yaml", "scaling.yaml"}
# What a scaler may ask of Prometheus.
METRICS = {"hive_scaling_wished_agents", "hive_queue_depth", "hive_queue_oldest_age_seconds", "hive_tasks_running"}

problems = []


def need(is_so, problem):
    if not is_so:
        problems.append(problem)


def read(directory):
    """The documents of each file."""
    files = {path.name: list(yaml.safe_load_all(path.read_text())) for path in sorted(directory.glob("*.yaml"))}
    need(len(files) >= 6, f"only {sorted(files)} in {directory}")
    return files


def check_schema(name, manifest):
    kind = manifest["kind"]
    if kind in FOREIGN:
        return
    for version in VERSIONS:
        try:
            kubernetes_validate.validate(manifest, version, strict=True)
        except (kubernetes_validate.ValidationError, kubernetes_validate.SchemaNotFoundError) as error:
            problems.append(f"{name}: {kind} is none of Kubernetes {version}: {error}")
    print(f"{name}: {kind} {manifest['metadata']['name']}")


def check_kustomization(files):
    listed = files["kustomization.yaml"][0]["resources"]
    need(set(listed) == set(files) - {"kustomization.yaml"} - OPTIONAL, f"kustomization.yaml lists {listed}")


def labels(workload):
    return workload["spec"]["template"]["metadata"]["labels"].items()


def selected(selector, workloads):
    return [workload for workload in workloads if selector.items() <= labels(workload)]


def ports(workloads):
    containers = [container for workload in workloads for container in workload["spec"]["template"]["spec"]["containers"]]
    all_ports = [port for container in containers for port in container["ports"]]
    return {port["name"] for port in all_ports} | {port["containerPort"] for port in all_ports}


def check_workload(workload, config_maps):
    name, spec = workload["metadata"]["name"], workload["spec"]
    pod = spec["template"]["spec"]
    need(spec["selector"]["matchLabels"].items() <= labels(workload), f"{name} does not select its own pods")
    need(pod["securityContext"]["runAsNonRoot"] is True, f"{name} may run as root")
    need(pod["automountServiceAccountToken"] is False, f"{name} gets a token of the API server")
    need(pod.get("terminationGracePeriodSeconds", 0) > 0, f"{name} does not say how long it may take to end")
    for container in pod["containers"]:
        secure = container["securityContext"]
        need(secure["readOnlyRootFilesystem"] and not secure["allowPrivilegeEscalation"], f"{name} is not contained")
        need(secure["capabilities"] == {"drop": ["ALL"]}, f"{name} has capabilities")
        need("memory" in container["resources"]["limits"], f"{name} may take all memory")
        need({"readinessProbe", "livenessProbe"} <= set(container), f"{name} has no probes")
        own = {port["name"] for port in container["ports"]}
        for probe in [value for key, value in container.items() if key.endswith("Probe")]:
            asked = probe.get("httpGet", probe.get("tcpSocket"))["port"]
            need(asked in own, f"{name} is probed on {asked}, which is no port of it")
        volumes = {volume["name"] for volume in pod["volumes"]}
        volumes |= {claim["metadata"]["name"] for claim in spec.get("volumeClaimTemplates", [])}
        for mount in container["volumeMounts"]:
            need(mount["name"] in volumes, f"{name} mounts {mount['name']}, which is not there")
    for volume in pod["volumes"]:
        if "configMap" in volume:
            keys = config_maps.get(volume["configMap"]["name"], {})
            mounts = [m for c in pod["containers"] for m in c["volumeMounts"] if m["name"] == volume["name"]]
            need(all(mount["subPath"] in keys for mount in mounts), f"{name} mounts a file that is in no ConfigMap")


def check_together(manifests):
    of = lambda *kinds: [manifest for manifest in manifests if manifest["kind"] in kinds]
    workloads = of(*WORKLOADS)
    config_maps = {config["metadata"]["name"]: config["data"] for config in of("ConfigMap")}
    need({workload["metadata"]["name"] for workload in workloads} == {"nats", "coordinator", "agent"}, "which workloads?")
    for workload in workloads:
        check_workload(workload, config_maps)
    for service in of("Service"):
        chosen = selected(service["spec"]["selector"], workloads)
        need(len(chosen) == 1, f"service {service['metadata']['name']} is for {len(chosen)} workloads")
        for port in service["spec"]["ports"]:
            need(port["targetPort"] in ports(chosen), f"nobody has the port {port} of a service")
    budgets = [selected(budget["spec"]["selector"]["matchLabels"], workloads) for budget in of("PodDisruptionBudget")]
    need(sorted(len(chosen) for chosen in budgets) == [1, 1, 1], "not every workload has its own PodDisruptionBudget")
    for policy in of("NetworkPolicy"):
        chosen = selected(policy["spec"]["podSelector"].get("matchLabels", {}), workloads)
        need(chosen, f"network policy {policy['metadata']['name']} is for nobody")
        for rule in policy["spec"].get("ingress", []):
            for port in rule["ports"]:
                need(port["port"] in ports(chosen), f"{policy['metadata']['name']} lets in by {port}, which nobody has")
    for scaled in of("ScaledObject", "HorizontalPodAutoscaler"):
        check_scaled(scaled, of("Deployment"))
    for binding in of("RoleBinding"):
        check_rights(binding, {role["metadata"]["name"]: role for role in of("Role")}, of("ServiceAccount"), workloads)
    return config_maps


def check_scaled(scaled, deployments):
    spec, name = scaled["spec"], scaled["kind"]
    target = spec["scaleTargetRef"]["name"]
    found = [deployment for deployment in deployments if deployment["metadata"]["name"] == target]
    need(found, f"{target} is scaled by {name}, and is not there")
    need(all("replicas" not in deployment["spec"] for deployment in found), f"{target} is scaled by two")
    triggers = spec.get("triggers", [])
    formula = spec.get("advanced", {}).get("scalingModifiers", {}).get("formula")
    names = {trigger["name"] for trigger in triggers}
    need(formula is None or set(formula.split(" + ")) == names, f"the formula {formula} is not of {names}")
    asked = [trigger["metadata"].get("query", "") for trigger in triggers]
    asked += [metric["external"]["metric"]["name"] for metric in spec.get("metrics", [])]
    for query in asked:
        metrics = set(re.findall(r"hive_\w+", query))
        need(metrics <= METRICS, f"{name} asks for {metrics - METRICS}, which nobody tells")


def check_rights(binding, roles, accounts, workloads):
    name = binding["metadata"]["name"]
    role = roles.get(binding["roleRef"]["name"])
    need(role is not None, f"{name} binds a role that is not there")
    known = {account["metadata"]["name"] for account in accounts}
    need({subject["name"] for subject in binding["subjects"]} <= known, f"{name} is for an account that is not there")
    of_workloads = {workload["metadata"]["name"] for workload in workloads}
    for rule in role["rules"] if role else []:
        need(set(rule.get("resourceNames", [])) <= of_workloads, f"{name} has rights on what is not there")
        need("*" not in rule["verbs"] + rule["resources"], f"{name} has rights on everything")


def public_key(number):
    """An NKey of a user, as the server reads it: the prefix, the key, and their CRC-16."""
    raw, crc = bytes([20 << 3]) + bytes([number]) * 32, 0
    for byte in raw:
        crc ^= byte << 8
        for _ in range(8):
            crc = ((crc << 1) ^ 0x1021 if crc & 0x8000 else crc << 1) & 0xFFFF
    return base64.b32encode(raw + crc.to_bytes(2, "little")).decode().rstrip("=")


def check_nats(settings, server):
    with tempfile.TemporaryDirectory() as directory:
        directory = pathlib.Path(directory)
        (directory / "nats.conf").write_text(settings)
        (directory / "secrets").mkdir()
        keys = [f"{role}_key: {public_key(number)}\n" for number, role in enumerate(["coordinator", "agent", "client"])]
        (directory / "secrets" / "keys.conf").write_text("".join(keys))
        command = [server, "-t", "--config", str(directory / "nats.conf")]
        tried = subprocess.run(command, env=dict(os.environ, POD_NAME="nats-0"), capture_output=True, text=True)
        need(tried.returncode == 0, f"nats.conf: {tried.stdout}{tried.stderr}")
        print("nats.conf: read by nats-server")


def check_nomad(path):
    with path.open() as file:
        job = hcl2.load(file)["job"][0]
    text = str(job)
    # Only that nothing was lost on the way: what Nomad makes of it, only Nomad knows.
    for word, times in {"kill_timeout": 2, "disconnect": 2, "distinct_hosts": 1}.items():
        need(text.count(word) >= times, f"{path.name} does not say {word} {times} times")
    print(f"{path.name}: is HCL")


def main():
    deploy, server = pathlib.Path(sys.argv[1]), sys.argv[2]
    files = read(deploy / "kubernetes")
    for name, manifests in files.items():
        for manifest in manifests:
            check_schema(name, manifest)
    check_kustomization(files)
    config_maps = check_together([manifest for manifests in files.values() for manifest in manifests])
    check_nats(config_maps["nats"]["nats.conf"], server)
    check_nomad(deploy / "nomad" / "hivemesh.nomad.hcl")
    if problems:
        sys.exit("\n".join(problems))


main()
