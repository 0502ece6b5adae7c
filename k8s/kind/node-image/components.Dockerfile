# The images that run on a node, one target each. The names that kubeadm expects are
# given to them in build.sh. `static` is last: builders without BuildKit also build the
# stages before the target, and its PROGRAM is set only where it is the target.
ARG BASE_IMAGE=debian:trixie-slim
FROM ${BASE_IMAGE} AS busybox
RUN apt-get update && apt-get install -y --no-install-recommends busybox-static \
 && mkdir -p /helper/bin && cp /bin/busybox /helper/bin/ \
 && for applet in sh mkdir rm; do ln -s busybox "/helper/bin/$applet"; done

FROM scratch AS coredns
COPY coredns /coredns
ENTRYPOINT ["/coredns"]

FROM scratch AS pause
COPY pause /pause
USER 65535:65535
ENTRYPOINT ["/pause"]

FROM ${BASE_IMAGE} AS kube-proxy
RUN apt-get update \
 && apt-get install -y --no-install-recommends iptables nftables conntrack kmod \
 && rm -rf /var/lib/apt/lists/*
COPY kube-proxy /usr/local/bin/

FROM scratch AS local-path-provisioner
COPY local-path-provisioner /usr/local/bin/
ENTRYPOINT ["/usr/local/bin/local-path-provisioner"]

FROM scratch AS local-path-helper
COPY --from=busybox /helper/ /
ENV PATH=/bin

# The static pods name their program without a path, hence PATH in every image.
FROM scratch AS static
ARG PROGRAM
COPY ${PROGRAM} /usr/local/bin/
ENV PATH=/usr/local/bin
