#!/usr/bin/env python3
"""The pages for administrators against the program: configuration.md is what it prints, operations.md names what it exports and logs."""
import pathlib
import re
import subprocess
import sys
import urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import gateway_client  # noqa: E402
import tap  # noqa: E402

OPERATIONS = (tap.SOURCE / "docs/operations.md").read_text()


def section(title):
    return OPERATIONS.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]


def named_in_tables(text):
    """The names in backquotes of the first column."""
    return {name for line in text.splitlines() if line.startswith("| `") for name in re.findall(r"`([^`]+)`", line.split("|")[1])}


def same(documented, actual):
    tap.equal(sorted(documented - actual), [], "documented, and not there")
    tap.equal(sorted(actual - documented), [], "there, and not documented")


@tap.case
def test_configuration_md__is_what_the_program_prints(gw):
    printed = subprocess.run([str(gw.binary), "config", "--markdown"], stdout=subprocess.PIPE, check=True).stdout.decode()
    tap.check((tap.SOURCE / "docs/configuration.md").read_text() == printed,
              "docs/configuration.md is old: gatehouse config --markdown > docs/configuration.md")


@tap.case
def test_example_configuration__has_known_options_and_all_that_must_be_given(gw):
    rows = (tap.SOURCE / "docs/configuration.md").read_text().splitlines()
    known = named_in_tables("\n".join(rows))
    needed = named_in_tables("\n".join(row for row in rows if "| must be given |" in row))
    given = set(re.findall(r"^(\w+) = ", (tap.SOURCE / "deploy/gatehouse.conf.example").read_text(), re.M))
    tap.equal(sorted(given - known), [], "unknown")
    tap.equal(sorted(needed - given), [], "missing")


@tap.case
def test_operations_md__names_every_metric(gw):
    with urllib.request.urlopen(f"{gw.admin_url}/metrics", timeout=10) as answer:
        exported = set(re.findall(r"^# TYPE (\w+) ", answer.read().decode(), re.M))
    same(named_in_tables(section("Metrics")), exported)


@tap.case
def test_operations_md__names_every_event_and_field_of_the_log(gw):
    logged, fields = set(), set()
    for folder in ("gateway", "audit"):
        for file in (tap.SOURCE / folder).glob("*.c"):
            text = file.read_text()
            logged |= set(re.findall(r'base_log(?:_err)?\([^;"]*"([a-z_.]+)"', text))
            if file.name == "call_settle.c":
                fields |= set(re.findall(r'LOG_(?:STR|INT)\("(\w+)"', text))
    named = named_in_tables(section("The log"))
    same({name for name in named if name not in fields} | {"call"}, logged)
    same(fields & named, fields)


if __name__ == "__main__":
    with gateway_client.new_stack(demo_provider=False) as stack:
        status = tap.run(stack)
    sys.exit(status)
