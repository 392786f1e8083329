#!/usr/bin/env bash
# What the tests in a browser need beside `pip install -e '.[dev]'`: Debian's Chromium, and fonts for its screenshots.
set -euo pipefail
if ! command -v chromium > /dev/null; then
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core > /dev/null
fi
chromium --version
