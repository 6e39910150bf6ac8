"""The Kubernetes manifests: they use existing settings, and a deployment with them loses no client."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes_validate import ValidationError, latest_version, validate

from gateway.settings import Settings, read_settings

FOLDER = Path(__file__).parent.parent.parent / "deploy" / "kubernetes"


def manifests() -> dict[str, Any]:
    return {each["kind"]: each for each in yaml.safe_load_all((FOLDER / "gateway.yaml").read_text())}


def container() -> Any:
    (only,) = manifests()["Deployment"]["spec"]["template"]["spec"]["containers"]
    return only


def test_the_gateway_takes_its_settings() -> None:
    given = {entry["name"]: entry["value"] for entry in container()["env"]}
    settings = read_settings({name: value for name, value in given.items() if not name.endswith("_FILE")})

    assert settings.host == "0.0.0.0"
    names = {f"GATEWAY_{field.name.upper()}" for field in dataclasses.fields(Settings)}
    assert {name.removesuffix("_FILE") for name in given} <= names


def test_the_service_gives_the_pods_no_settings() -> None:
    assert manifests()["Service"]["metadata"]["name"] == "gateway"
    assert manifests()["Deployment"]["spec"]["template"]["spec"]["enableServiceLinks"] is False


def test_there_is_time_for_the_drain() -> None:
    pod = manifests()["Deployment"]["spec"]["template"]["spec"]
    drain = float(next(entry["value"] for entry in container()["env"] if entry["name"] == "GATEWAY_DRAIN_SECONDS"))
    before = float(container()["lifecycle"]["preStop"]["exec"]["command"][1])

    assert pod["terminationGracePeriodSeconds"] >= before + drain + 10


def test_it_is_restarted_when_it_hangs_and_only_then() -> None:
    probes = {name: container()[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "readiness", "liveness")}

    assert probes == {"startup": "/livez", "readiness": "/readyz", "liveness": "/livez"}
    assert container()["readinessProbe"]["periodSeconds"] <= 5


def test_labels_ports_and_names_fit_each_other() -> None:
    found = manifests()
    labels = found["Deployment"]["spec"]["template"]["metadata"]["labels"]
    for selector in (
        found["Deployment"]["spec"]["selector"]["matchLabels"],
        found["Service"]["spec"]["selector"],
        found["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        *(each["labelSelector"]["matchLabels"] for each in found["Deployment"]["spec"]["template"]["spec"]["topologySpreadConstraints"]),
    ):
        assert selector == labels
    assert found["Service"]["spec"]["ports"][0]["targetPort"] == container()["ports"][0]["name"]
    assert found["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]["name"] == found["Deployment"]["metadata"]["name"]
    assert {mount["name"] for mount in container()["volumeMounts"]} == {
        volume["name"] for volume in found["Deployment"]["spec"]["template"]["spec"]["volumes"]
    }


def test_it_grows_with_connections_before_they_are_refused() -> None:
    (metric,) = [each["pods"] for each in manifests()["HorizontalPodAutoscaler"]["spec"]["metrics"] if each["type"] == "Pods"]

    assert metric["metric"]["name"] == "gateway_connections"
    assert int(metric["target"]["averageValue"]) < Settings().max_connections


def test_nobody_is_root_and_nothing_is_written() -> None:
    pod = manifests()["Deployment"]["spec"]["template"]["spec"]

    assert pod["securityContext"]["runAsNonRoot"]
    assert container()["securityContext"]["readOnlyRootFilesystem"]
    assert f"USER {pod['securityContext']['runAsUser']}" in (FOLDER.parent.parent / "Dockerfile").read_text()


@pytest.mark.parametrize("version", ["1.30", latest_version()])
@pytest.mark.parametrize("kind", ["Deployment", "Service", "PodDisruptionBudget", "HorizontalPodAutoscaler"])
def test_the_manifests_are_valid_for_kubernetes(kind: str, version: str) -> None:
    """Against the schemas of Kubernetes itself, which refuse unknown fields too."""
    manifest = manifests()[kind]
    validate(manifest, version, strict=True)

    with pytest.raises(ValidationError):
        validate(manifest | {"spec": manifest["spec"] | {"replica": 3}}, version, strict=True)


def test_prometheus_has_the_job_that_the_alerts_ask_for() -> None:
    monitor = next(iter(yaml.safe_load_all((FOLDER / "monitoring.yaml").read_text())))["spec"]
    labels = manifests()["Deployment"]["spec"]["template"]["metadata"]["labels"]
    jobs = re.findall(r'job="([^"]*)"', (FOLDER.parent / "alerts.yml").read_text())

    assert monitor["selector"]["matchLabels"] == labels
    assert {labels[monitor["jobLabel"]]} == set(jobs)


def test_each_manifest_is_tested() -> None:
    """The second file has only custom resources, whose operators bring their own schemas, and a ConfigMap."""
    kinds = [each["kind"] for each in yaml.safe_load_all((FOLDER / "monitoring.yaml").read_text())]

    assert manifests().keys() == {"Deployment", "Service", "PodDisruptionBudget", "HorizontalPodAutoscaler"}
    assert kinds == ["PodMonitor", "ConfigMap"]
