#!/bin/sh
# Installs what `python3 build.py lab` needs of Debian's packages beyond a minimal system: 10 MB, some seconds.
set -e
apt-get update -q
DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends \
  iproute2 nftables passwd procps bsdutils systemd systemd-container util-linux libfaketime
