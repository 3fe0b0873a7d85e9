"""Recorded objects of an API server of Kubernetes 1.34, without uids."""

from __future__ import annotations

JOB = b"""{
  "apiVersion": "batch/v1", "kind": "Job",
  "metadata": {
    "annotations": {"meta.helm.sh/release-name": "night", "meta.helm.sh/release-namespace": "garage"},
    "creationTimestamp": "2026-01-31T09:12:01Z", "generation": 2, "name": "night-sam3-annotate-gpu-66b16f5e",
    "labels": {
      "app.kubernetes.io/component": "worker", "app.kubernetes.io/instance": "night",
      "sam3-annotate/pool": "gpu", "sam3-annotate/run": "night-8b858da8"
    },
    "managedFields": [{"apiVersion": "batch/v1", "fieldsType": "FieldsV1", "fieldsV1": {"f:spec": {}},
      "manager": "helm", "operation": "Update", "time": "2026-01-31T09:12:01Z"}],
    "namespace": "garage", "resourceVersion": "40122"
  },
  "spec": {
    "backoffLimit": 2147483647, "backoffLimitPerIndex": 20, "completionMode": "Indexed", "completions": 8,
    "manualSelector": false, "maxFailedIndexes": 7, "parallelism": 2, "podReplacementPolicy": "Failed",
    "podFailurePolicy": {"rules": [{"action": "FailJob", "onExitCodes": {"containerName": "annotate",
      "operator": "In", "values": [2, 78]}, "onPodConditions": null}]},
    "selector": {"matchLabels": {"batch.kubernetes.io/controller-uid": "1"}}, "suspend": false,
    "template": {
      "metadata": {"creationTimestamp": null, "labels": {"sam3-annotate/pool": "gpu"}},
      "spec": {
        "containers": [{
          "args": ["annotate", "--out_top_dir=s3://pictures/out", "--run=night-8b858da8", "--include=$$(HOME)*"],
          "env": [
            {"name": "AWS_ENDPOINT_URL_S3", "value": "https://s3.example"},
            {"name": "AWS_SECRET_ACCESS_KEY", "valueFrom": {"secretKeyRef": {"key": "secret", "name": "keys"}}},
            {"name": "SAM3_NUM_INDEXES", "value": "8"}
          ],
          "envFrom": [{"secretRef": {"name": "keys"}}],
          "image": "registry.example/sam3-annotate:0.1.0-gpu", "imagePullPolicy": "IfNotPresent",
          "name": "annotate", "resources": {"limits": {"nvidia.com/gpu": "1"}},
          "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "FallbackToLogsOnError"
        }],
        "dnsPolicy": "ClusterFirst", "restartPolicy": "Never", "terminationGracePeriodSeconds": 60
      }
    }
  },
  "status": {
    "completedIndexes": "0-2,5", "failed": 3, "failedIndexes": "4", "startTime": "2026-01-31T09:12:01Z",
    "conditions": [
      {"lastProbeTime": "2026-01-31T10:00:00Z", "lastTransitionTime": "2026-01-31T10:00:00Z",
        "message": "Container annotate for pod garage/night-sam3-annotate-gpu-66b16f5e-4-x8x2k failed with exit code 78 matching FailJob rule at index 1",
        "reason": "PodFailurePolicy", "status": "True", "type": "FailureTarget"},
      {"lastProbeTime": "2026-01-31T10:00:04Z", "lastTransitionTime": "2026-01-31T10:00:04Z",
        "message": "Container annotate for pod garage/night-sam3-annotate-gpu-66b16f5e-4-x8x2k failed with exit code 78 matching FailJob rule at index 1",
        "reason": "PodFailurePolicy", "status": "True", "type": "Failed"}
    ],
    "ready": 0, "succeeded": 4, "terminating": 0, "uncountedTerminatedPods": {}
  }
}"""  # noqa: E501

NEW_JOB = b"""{
  "metadata": {"name": "night-sam3-annotate-cpu-e0edc924", "creationTimestamp": "2026-01-31T09:12:01Z"},
  "spec": {"completions": 8, "parallelism": 2, "template": {"spec": {"containers": [{"name": "annotate"}]}}},
  "status": {}
}"""

OUT_OF_MEMORY = b"""{
  "apiVersion": "v1", "kind": "Pod",
  "metadata": {
    "annotations": {"batch.kubernetes.io/job-completion-index": "3"},
    "creationTimestamp": "2026-01-31T09:12:03Z", "finalizers": ["batch.kubernetes.io/job-tracking"], "generation": 1,
    "labels": {"batch.kubernetes.io/job-completion-index": "3", "sam3-annotate/pool": "cpu"},
    "name": "night-sam3-annotate-cpu-e0edc924-3-7kq2d", "namespace": "garage",
    "ownerReferences": [{"apiVersion": "batch/v1", "blockOwnerDeletion": true, "controller": true, "kind": "Job",
      "name": "night-sam3-annotate-cpu-e0edc924"}]
  },
  "spec": {"containers": [{"image": "registry.example/sam3-annotate:0.1.0-cpu", "name": "annotate"}],
    "nodeName": "cpu-1", "priority": 0, "tolerations": [{"effect": "NoExecute", "key": "node.kubernetes.io/not-ready",
      "operator": "Exists", "tolerationSeconds": 300}]},
  "status": {
    "conditions": [{"lastProbeTime": null, "lastTransitionTime": "2026-01-31T09:20:00Z", "observedGeneration": 1,
      "reason": "PodFailed", "status": "False", "type": "Ready"}],
    "containerStatuses": [{
      "allocatedResources": {"cpu": "4"}, "containerID": "containerd://1", "image": "registry.example/it",
      "imageID": "sha256:1", "lastState": {}, "name": "annotate", "ready": false, "restartCount": 0, "started": false,
      "state": {"terminated": {"containerID": "containerd://1", "exitCode": 137, "finishedAt": "2026-01-31T09:20:00Z",
        "reason": "OOMKilled", "startedAt": "2026-01-31T09:12:05Z"}},
      "user": {"linux": {"gid": 65532, "uid": 65532}}
    }],
    "hostIP": "10.0.0.4", "observedGeneration": 1, "phase": "Failed", "podIP": "10.1.0.7", "qosClass": "Guaranteed",
    "startTime": "2026-01-31T09:12:03Z"
  }
}"""

EVICTED = b"""{
  "metadata": {"creationTimestamp": "2026-01-31T09:12:03Z", "name": "night-sam3-annotate-cpu-e0edc924-0-b4b9x",
    "labels": {"batch.kubernetes.io/job-completion-index": "0", "sam3-annotate/pool": "cpu"}},
  "spec": {"containers": [{"image": "registry.example/it", "name": "annotate"}], "nodeName": "cpu-1"},
  "status": {
    "conditions": [
      {"lastProbeTime": null, "lastTransitionTime": "2026-01-31T09:20:00Z", "status": "True",
        "message": "The node was low on resource: memory. Threshold quantity: 100Mi, available: 81Mi. ",
        "reason": "TerminationByKubelet", "type": "DisruptionTarget"}
    ],
    "containerStatuses": [{"image": "registry.example/it", "imageID": "", "lastState": {}, "name": "annotate",
      "ready": false, "restartCount": 0, "state": {"terminated": {"exitCode": 137, "finishedAt": "2026-01-31T09:20:01Z",
        "reason": "Error", "startedAt": null}}}],
    "message": "The node was low on resource: memory. Threshold quantity: 100Mi, available: 81Mi. ",
    "phase": "Failed", "reason": "Evicted", "startTime": "2026-01-31T09:12:03Z"
  }
}"""

CREATING = b"""{
  "metadata": {"creationTimestamp": "2026-01-31T09:12:03Z", "name": "night-sam3-annotate-doctor"},
  "spec": {"containers": [{"image": "registry.example/it", "name": "annotate"}]},
  "status": {
    "containerStatuses": [{"image": "registry.example/it", "imageID": "", "lastState": {}, "name": "annotate",
      "ready": false, "restartCount": 0, "started": false, "state": {"waiting": {"reason": "ContainerCreating"}}}],
    "phase": "Pending", "qosClass": "BestEffort"
  }
}"""

EVENT = b"""{
  "apiVersion": "v1", "kind": "Event", "action": "", "count": 7, "eventTime": null, "type": "Warning",
  "firstTimestamp": "2026-01-31T09:12:01Z", "lastTimestamp": "2026-01-31T09:22:01Z",
  "involvedObject": {"apiVersion": "batch/v1", "kind": "Job", "name": "night-sam3-annotate-gpu-66b16f5e",
    "namespace": "garage", "resourceVersion": "40122"},
  "message": "Error creating: pods \\"night-sam3-annotate-gpu-66b16f5e-0-\\" is forbidden: exceeded quota: gpus, requested: requests.nvidia.com/gpu=1, used: requests.nvidia.com/gpu=2, limited: requests.nvidia.com/gpu=2",
  "metadata": {"creationTimestamp": "2026-01-31T09:12:01Z", "name": "night-sam3-annotate-gpu-66b16f5e.18ff", "namespace": "garage"},
  "reason": "FailedCreate", "reportingComponent": "job-controller", "reportingInstance": "",
  "source": {"component": "job-controller"}
}"""  # noqa: E501

NODE = b"""{
  "metadata": {"annotations": {"node.alpha.kubernetes.io/ttl": "0"}, "creationTimestamp": "2026-01-30T09:00:00Z",
    "labels": {"nvidia.com/gpu.present": "true"}, "name": "gpu-0"},
  "spec": {"podCIDR": "10.1.1.0/24", "taints": [{"effect": "NoExecute", "key": "node.kubernetes.io/unreachable",
    "timeAdded": "2026-01-31T09:20:00Z"}]},
  "status": {
    "addresses": [{"address": "10.0.0.5", "type": "InternalIP"}], "capacity": {"nvidia.com/gpu": "1"},
    "conditions": [
      {"lastHeartbeatTime": "2026-01-31T09:19:00Z", "lastTransitionTime": "2026-01-31T09:20:00Z",
        "message": "Kubelet stopped posting node status.", "reason": "NodeStatusUnknown", "status": "Unknown",
        "type": "Ready"}
    ],
    "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}}, "images": null
  }
}"""
