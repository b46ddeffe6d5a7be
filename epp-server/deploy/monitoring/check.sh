#!/usr/bin/env bash
# Checks the alert rules, their tests and every query of the dashboard with promtool, which it gets where it is missing.
set -euo pipefail
cd "$(dirname "$0")"
folder=../../../.promtool

promtool=$(command -v promtool || echo "$folder/usr/bin/promtool")
if [ ! -x "$promtool" ]; then
  mkdir -p "$folder"
  # The package's archive alone: it need not be installed, and its server is not to be started.
  (cd "$folder" && { apt-get -qq download prometheus 2>/dev/null || { apt-get -qq update && apt-get -qq download prometheus; }; } && dpkg-deb -x prometheus_*.deb . && rm prometheus_*.deb)
fi

"$promtool" check rules alerts.yaml
"$promtool" test rules alerts_test.yaml

queries=$(mktemp)
trap 'rm -f "$queries"' EXIT
python3 - > "$queries" <<'PYTHON'
import json

panels = json.load(open("dashboard.json"))["panels"]
queries = [target["expr"] for panel in panels for target in panel.get("targets", [])]
rules = [
    {"record": f"panel_query_{number}", "expr": query.replace("$__rate_interval", "1m")}
    for number, query in enumerate(queries)
]
print(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
PYTHON
"$promtool" check rules "$queries"
