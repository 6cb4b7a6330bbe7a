# asynclb as an unprivileged user.
#
#   docker build -t asynclb .
#   docker run -d --network host --cap-drop ALL --cap-add NET_ADMIN --cap-add NET_BIND_SERVICE \
#       --ulimit nofile=65536 -v /etc/asynclb:/etc/asynclb:ro -v asynclb-state:/var/lib/asynclb asynclb
#
# That is for the datapath proxy; conf/DEPLOYMENT.md has the capabilities of each.
#
# /etc/asynclb is a directory with asynclb.yaml in it. Mount the directory: a single file that is mounted never shows a
# change. --network host: VIPs and routes are the host's; a network namespace with routes of its own does as well.

ARG PYTHON=3.13
# Another base has to be Debian 12 or newer, with that Python and pip in /usr/local.
ARG BASE=python:${PYTHON}-slim-bookworm

FROM ${BASE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
COPY .ci/requirements-build.txt .ci/requirements-run.txt .ci/
# --copies: the interpreter is to carry capabilities, and no other program of the image shall get them.
RUN python -m pip install --require-hashes -r .ci/requirements-build.txt \
    && python -m venv --copies --without-pip /opt/asynclb \
    && python -m pip --python /opt/asynclb/bin/python install --require-hashes -r .ci/requirements-run.txt
COPY LICENSE README.md pyproject.toml ./
COPY asynclb asynclb
RUN python -m pip wheel --no-deps --no-build-isolation --wheel-dir /wheels . \
    && python -m pip --python /opt/asynclb/bin/python install --no-deps --no-index /wheels/*.whl

FROM ${BASE}
LABEL org.opencontainers.image.title="asynclb" \
      org.opencontainers.image.description="Transparent layer-4 load balancer for plain Linux" \
      org.opencontainers.image.licenses="Apache-2.0"
# libnftables finds the names of protocols in netbase's /etc/protocols. Security updates of the distribution are wanted,
# so versions are not pinned.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends libbpf1 libcap2-bin libnftables1 netbase \
    && rm -rf /var/lib/apt/lists/* \
    && install -d -o 65532 -g 65532 -m 700 /var/lib/asynclb
COPY --from=build /opt/asynclb /opt/asynclb
# A user that is not root gets nothing from --cap-add alone: the program has to have the capability as well. Permitted
# only (=p), not effective (=ep): with that, a container without --cap-add could not even start it. asynclb raises them.
RUN setcap cap_net_admin,cap_net_bind_service,cap_net_raw,cap_bpf,cap_perfmon=p /opt/asynclb/bin/python \
    && ln -s /opt/asynclb/bin/asynclb /usr/local/bin/asynclb
ENV PYTHONUNBUFFERED=1 STATE_DIRECTORY=/var/lib/asynclb
USER 65532:65532
STOPSIGNAL SIGTERM
# Where admin.listen is not 127.0.0.1:9180, say so: -e ASYNCLB_URL=unix:/run/asynclb/admin
# A check takes 0.1 s of a processor, and a busy host seconds to get there: 30 s are for that. A process that hangs is
# found by the check itself, which waits 10 s for an answer; one that does not listen is found at once.
HEALTHCHECK --interval=10s --timeout=30s --start-period=60s --retries=3 \
    CMD ["/opt/asynclb/bin/python", "-m", "asynclb.admin.ready"]
ENTRYPOINT ["asynclb"]
CMD ["run", "/etc/asynclb/asynclb.yaml"]
