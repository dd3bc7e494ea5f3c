# shellcheck shell=bash
# Namespaces, links and addresses:
#
#   $LAB-lan lan0 --- lan0 $LAB-relay wan0 --- end-a $LAB-emu end-b --- wan0 $LAB-wan
#
# The relay's ports carry no kernel address and a drop rule that does not
# depend on any process: what the data plane does not route, nobody routes.

NS_LAN=$LAB-lan
NS_RELAY=$LAB-relay
NS_EMU=$LAB-emu
NS_WAN=$LAB-wan
NAMESPACES=("$NS_LAN" "$NS_RELAY" "$NS_EMU" "$NS_WAN")

in_ns() {
    local namespace=$1
    shift
    ip netns exec "$namespace" "$@"
}

namespace_exists() { [[ -e /run/netns/$1 ]]; }

net_up() {
    local namespace
    for namespace in "${NAMESPACES[@]}"; do
        ip netns add "$namespace"
        in_ns "$namespace" sysctl -qw net.ipv6.conf.all.disable_ipv6=1 \
            net.ipv6.conf.default.disable_ipv6=1 net.ipv4.ip_forward=0
        ip -n "$namespace" link set lo up
    done
    # The drop rule is there before the ports are up. Fixed addresses make
    # captures readable.
    ip -n "$NS_RELAY" link add lan0 address 02:00:c6:12:00:01 type veth \
        peer name lan0 address 02:00:c6:12:00:0a netns "$NS_LAN"
    ip -n "$NS_RELAY" link add wan0 address 02:00:c6:13:00:01 type veth \
        peer name end-a netns "$NS_EMU"
    ip -n "$NS_WAN" link add wan0 address 02:00:c6:13:00:0a type veth \
        peer name end-b netns "$NS_EMU"
    relay_drop_rule | in_ns "$NS_RELAY" nft -f -
    net_offloads "$1"
    {
        echo "link set lan0 up"
        seq -f 'address add 198.18.0.%g/24 dev lan0' 10 200
        echo "route add default via 198.18.0.1"
    } | ip -n "$NS_LAN" -batch -
    {
        echo "link set wan0 up"
        seq -f 'address add 198.19.0.%g/24 dev wan0' 10 20
        echo "route add default via 198.19.0.1"
        # A host behind the storage's router, for the relay's static route.
        echo "address add 203.0.113.1/24 dev lo"
    } | ip -n "$NS_WAN" -batch -
    printf 'link set %s up\n' end-a end-b | ip -n "$NS_EMU" -batch -
    printf 'link set %s arp off up\n' lan0 wan0 | ip -n "$NS_RELAY" -batch -
    for namespace in "$NS_LAN" "$NS_WAN"; do
        # Windows for 1 Gbit/s x 100 ms, and no run that learns from the last.
        in_ns "$namespace" sysctl -qw net.ipv4.tcp_no_metrics_save=1 \
            net.ipv4.tcp_rmem='4096 131072 33554432' net.ipv4.tcp_wmem='4096 65536 33554432'
    done
}

# Everything that arrives on a port ends at the netdev hook, after packet
# sockets and XDP have had it; the other tables hold should that hook be gone,
# and keep the kernel from sending on the ports whatever addresses it has.
relay_drop_rule() {
    cat <<'RULES'
table netdev sluice {
    chain lan { type filter hook ingress device "lan0" priority -500; policy drop; counter drop; }
    chain wan { type filter hook ingress device "wan0" priority -500; policy drop; counter drop; }
}
table inet sluice {
    chain input { type filter hook input priority -300; iifname { "lan0", "wan0" } counter drop; }
    chain output { type filter hook output priority -300; oifname { "lan0", "wan0" } counter drop; }
    chain forward {
        type filter hook forward priority -300;
        iifname { "lan0", "wan0" } counter drop
        oifname { "lan0", "wan0" } counter drop
    }
}
table arp sluice {
    chain input { type filter hook input priority -300; iifname { "lan0", "wan0" } counter drop; }
    chain output { type filter hook output priority -300; oifname { "lan0", "wan0" } counter drop; }
}
RULES
}

# net_offloads DRIVER: whole packets with complete checksums wherever frames
# are read one by one: on the WAN always, on the LAN for AF_XDP.
net_offloads() {
    local end
    local ends=("$NS_RELAY wan0" "$NS_EMU end-a" "$NS_EMU end-b" "$NS_WAN wan0")
    [[ $1 != af_xdp ]] || ends+=("$NS_LAN lan0" "$NS_RELAY lan0")
    for end in "${ends[@]}"; do
        # shellcheck disable=SC2086  # namespace and device
        set -- $end
        in_ns "$1" ethtool -K "$2" tx off sg off tso off gso off gro off >/dev/null
    done
}

# Ends what runs in the lab's namespaces, whoever started it, and removes them.
net_down() {
    local namespace pid waited
    for namespace in "${NAMESPACES[@]}"; do
        namespace_exists "$namespace" || continue
        for waited in {0..150}; do
            local pids=()
            mapfile -t pids < <(ip netns pids "$namespace")
            [[ ${#pids[@]} -gt 0 ]] || break
            for pid in "${pids[@]}"; do
                if ((waited == 0)); then
                    kill -TERM "$pid" 2>/dev/null || true
                elif ((waited == 50)); then
                    kill -KILL "$pid" 2>/dev/null || true
                fi
            done
            sleep 0.02
        done
        ip netns delete "$namespace"
    done
}

lab_exec() {
    need_lab
    [[ $# -ge 2 ]] || usage_error "exec needs a host and a command"
    local host=$1
    shift
    case $host in
    lan | relay | wan) ;;
    *) usage_error "no host '$host': lan, relay or wan" ;;
    esac
    SLUICE_CONFIG=$(fact .config)
    export SLUICE_CONFIG PATH="$BIN:$PATH"
    exec ip netns exec "$LAB-$host" "$@"
}
