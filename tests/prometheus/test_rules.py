"""The rules for Prometheus in conf/, held to by Prometheus' own tool."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from asynclb.net.drop import Drop

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")


def promtool(*arguments: str) -> None:
    """Run promtool in the checkout and fail with what it says."""
    result = subprocess.run(["promtool", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_configuration_is_valid() -> None:
    """The example configuration, and the rules that it names, are valid."""
    promtool("check", "config", "conf/prometheus.yml")


def test_alerts_fire_when_they_should() -> None:
    """Every alert fires for what it is about, and stays silent for what is near it."""
    promtool("test", "rules", "tests/prometheus/alerts.yml")


def test_every_alert_is_tested() -> None:
    """No alert is without a test, and none is tested that does not exist."""
    alerts = re.findall(r"^ +- alert: (\w+)", (ROOT / "conf/prometheus/alerts.yml").read_text(), re.MULTILINE)
    tested = re.findall(r"alertname: (\w+)", (ROOT / "tests/prometheus/alerts.yml").read_text())
    assert set(alerts) == set(tested)
    assert len(alerts) == len(set(alerts))


def test_reasons_that_alerts_leave_out_exist() -> None:
    """The drop reasons that an alert leaves out are reasons of the enumeration."""
    text = (ROOT / "conf/prometheus/alerts.yml").read_text()
    named = {reason for group in re.findall(r'reason!~"([^"]+)"', text) for reason in group.split("|")}
    assert named
    assert named <= {str(reason) for reason in Drop}
