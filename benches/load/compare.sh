#!/usr/bin/env bash
# Compares anchorgate with nginx, HAProxy and a plain rustls + hyper server on the same certificates, and
# prints a table of processor time for each request, as ratios to the bare cryptography.
#
#   benches/load/compare.sh             measures; a server that is not installed is skipped
#   benches/load/compare.sh --install   installs nginx and HAProxy with apt-get before (as root)
#   ANCHORGATE_BENCH_PROGRAM=/usr/bin/anchorgate benches/load/compare.sh      measures another build
#
# The servers run on the first processor and the clients on the others.  It takes four minutes.
set -euo pipefail
cd "$(dirname "$0")/../.."

case ${1:-} in
  '') ;;
  --install) apt-get install --yes --no-install-recommends nginx haproxy ;;
  *) echo "usage: $0 [--install]" >&2; exit 2 ;;
esac

for program in nginx haproxy; do
  if command -v $program >/dev/null; then
    $program -v 2>&1 | head -1
  else
    echo "$program is not installed, and is skipped: --install installs it"
  fi
done
grep --max-count=1 'model name' /proc/cpuinfo || true

cargo bench --locked --bench compare --no-run
processors=$(nproc --all)
if [ "$processors" -gt 1 ] && command -v taskset >/dev/null; then
  exec taskset -c "1-$((processors - 1))" cargo bench --locked --bench compare
fi
echo 'servers and clients share one processor'
exec cargo bench --locked --bench compare
