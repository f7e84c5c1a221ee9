# A mesh on Nomad: two coordinators on different hosts, and agents.
#
#   nomad var put nomad/jobs/hivemesh nats_url=nats://10.0.0.10:4222 coordinator_nkey=@coordinator/nkey agent_nkey=@agent/nkey
#   nomad job run deploy/nomad/hivemesh.nomad.hcl
#
# The NATS servers are not a part of it: their streams want to stay where their disks are. Run them by systemd
# (deploy/systemd/hivemesh-nats.service) or wherever you keep databases.

variable "tag" {
  description = "Of the images that compose/build-images makes, on hosts that have them."
  type        = string
  default     = "0.1.0"
}

variable "agents" {
  description = "How many agents there are at first."
  type        = number
  default     = 3
}

job "hivemesh" {
  type = "service"

  # One at a time, and the next when this one is well: of the coordinators the other one leads meanwhile.
  update {
    max_parallel      = 1
    health_check      = "checks"
    min_healthy_time  = "5s"
    healthy_deadline  = "6m"
    progress_deadline = "15m"
    auto_revert       = true
  }

  group "coordinator" {
    count = 2

    # Two on one host would be lost together.
    constraint {
      distinct_hosts = true
    }

    # A host that Nomad cannot reach may well be working: the lease says who leads, so there is no hurry.
    disconnect {
      lost_after = "5m"
      replace    = true
      reconcile  = "keep_original"
    }

    restart {
      attempts = 10
      interval = "5m"
      delay    = "1s"
      mode     = "delay"
    }

    network {
      port "http" {}
    }

    # 200 if it leads or stands by. The API asks for no key: let nobody reach this port who should not.
    service {
      name     = "hivemesh-api"
      port     = "http"
      provider = "nomad"

      check {
        type     = "http"
        path     = "/readyz"
        interval = "5s"
        timeout  = "2s"
      }
    }

    task "coordinator" {
      driver = "docker"

      # SIGTERM gives the lease back within 3 s.
      kill_signal    = "SIGTERM"
      kill_timeout   = "15s"
      shutdown_delay = "3s"

      config {
        image           = "hivemesh/coordinator:${var.tag}"
        args            = ["serve", "--log-format", "json"]
        network_mode    = "host"
        readonly_rootfs = true
        cap_drop        = ["all"]
        security_opt    = ["no-new-privileges"]
      }

      env {
        HIVE_HTTP = "${NOMAD_ADDR_http}"
        # Whoever reaches the port may do everything: give it tokens (docs/api.md), or keep others off by a firewall.
        HIVE_INSECURE_HTTP = "true"
        HIVE_REPLICAS      = "3"
        NATS_NKEY          = "${NOMAD_SECRETS_DIR}/nkey"
      }

      template {
        destination = "${NOMAD_SECRETS_DIR}/nkey"
        uid         = 65532
        perms       = "0400"
        data        = "{{ with nomadVar \"nomad/jobs/hivemesh\" }}{{ .coordinator_nkey }}{{ end }}"
      }

      template {
        destination = "${NOMAD_SECRETS_DIR}/nats.env"
        env         = true
        data        = "{{ with nomadVar \"nomad/jobs/hivemesh\" }}NATS_URL={{ .nats_url }}{{ end }}"
      }

      resources {
        cpu        = 500
        memory     = 256
        memory_max = 1024
      }
    }
  }

  group "agent" {
    count = var.agents

    spread {
      attribute = "${node.unique.id}"
    }

    # The mesh starts the work of an agent elsewhere that it cannot hear; when it is heard again, it goes on. Nomad need
    # not replace it within seconds.
    disconnect {
      lost_after = "5m"
      replace    = true
      reconcile  = "keep_original"
    }

    restart {
      attempts = 10
      interval = "5m"
      delay    = "1s"
      mode     = "delay"
    }

    network {
      port "health" {}
    }

    # Well when a coordinator has welcomed it.
    service {
      name     = "hivemesh-agent"
      port     = "health"
      provider = "nomad"

      check {
        type     = "http"
        path     = "/"
        interval = "5s"
        timeout  = "2s"
      }
    }

    task "agent" {
      driver = "docker"

      # SIGTERM drains: it takes nothing new, finishes what runs, and leaves. Longest is what an attempt may take (5 minutes
      # unless a handler or a task says otherwise), and 5 s for the last result to be recorded. Nomad's clients allow 30 s
      # unless `max_kill_timeout` of theirs says more: set it there too.
      kill_signal  = "SIGTERM"
      kill_timeout = "330s"

      config {
        image           = "hivemesh/agent-worker:${var.tag}"
        args            = ["--log-format", "json"]
        network_mode    = "host"
        readonly_rootfs = true
        cap_drop        = ["all"]
        security_opt    = ["no-new-privileges"]
      }

      env {
        # Unique in the mesh, and the same when it is started again on its host.
        HIVE_AGENT  = "agent-${NOMAD_SHORT_ALLOC_ID}"
        HIVE_CONFIG = "${NOMAD_TASK_DIR}/agent.toml"
        HIVE_HEALTH = "${NOMAD_ADDR_health}"
        NATS_NKEY   = "${NOMAD_SECRETS_DIR}/nkey"
      }

      # What it can do is up to you, and so are the tools beside it: see compose/agent-with-tools.Dockerfile.
      template {
        destination = "${NOMAD_TASK_DIR}/agent.toml"
        data        = <<-EOF
          [agent]
          slots = 4

          [[handler]]
          kind = "echo"
          builtin = "echo"
        EOF
      }

      template {
        destination = "${NOMAD_SECRETS_DIR}/nkey"
        uid         = 65532
        perms       = "0400"
        data        = "{{ with nomadVar \"nomad/jobs/hivemesh\" }}{{ .agent_nkey }}{{ end }}"
      }

      template {
        destination = "${NOMAD_SECRETS_DIR}/nats.env"
        env         = true
        data        = "{{ with nomadVar \"nomad/jobs/hivemesh\" }}NATS_URL={{ .nats_url }}{{ end }}"
      }

      resources {
        cpu    = 500
        memory = 512
      }
    }
  }
}
