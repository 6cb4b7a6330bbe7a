# What stands for images of a registry, so that none has to be asked: the commands of the documentation find them here.

# python:*-slim-bookworm: base.py's Debian, with the packages of the locks, where pip finds them.
FROM asynclb-base AS python
COPY wheels /wheels-here
COPY pip.conf /etc/pip.conf

# prom/prometheus: Debian's, with the user, the entry point, the directory and busybox's wget that the real one has.
FROM asynclb-base AS prometheus
COPY prometheus /bin/
COPY busybox /bin/wget
RUN install -d -o 65534 -g 65534 /prometheus
USER 65534
ENTRYPOINT ["/bin/prometheus"]

# grafana/grafana: no Grafana. It ends if it cannot read what is mounted for Grafana, or cannot write where Grafana does;
# else it is a web server that answers the health check, where the settings say.
FROM asynclb-base AS grafana
COPY busybox /bin/wget
RUN install -d -o 472 -g 0 /var/lib/grafana && install -d /www/api && echo "not Grafana" >/www/api/health
USER 472
CMD ["sh", "-euc", "test -r \"$GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH\"; \
    cat /etc/grafana/provisioning/dashboards/*.yaml /etc/grafana/provisioning/datasources/*.yaml; \
    touch /var/lib/grafana/grafana.db; \
    exec python -m http.server --bind \"$GF_SERVER_HTTP_ADDR\" --directory /www 3000"]
