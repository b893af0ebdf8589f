"""What is shown, in this order. A case gets the testbed.Cluster, and leaves the default namespace to be cleared."""
from . import install, observed, restarts, volumes

ALL = [
    install.everything_is_ready,
    install.the_nodes_are_registered,
    install.rights_are_the_golden_ones,
    volumes.one_pod_writes_and_another_nodes_pod_reads,
    volumes.a_pod_that_is_not_root_writes_by_its_fs_group,
    volumes.a_sub_path_and_two_containers_see_one_volume,
    volumes.a_read_only_claim_refuses_writes,
    volumes.a_read_write_once_pod_claim_has_one_pod,
    volumes.a_static_volume_shows_a_data_set,
    volumes.a_job_reads_a_data_set_once_a_node,
    volumes.the_kernel_reads_ahead_as_far_as_the_volume_says,
    volumes.a_claim_grows_under_its_pod,
    observed.one_scrape_has_every_volume_of_its_node,
    observed.status_lists_the_mounts_of_its_node,
    observed.the_log_level_changes_without_a_restart,
    observed.a_wrong_key_is_told_on_the_pod,
    observed.a_secret_that_is_missing_is_told_on_the_pod,
    observed.a_worker_that_was_killed_is_told_on_its_pod,
    restarts.a_kubelet_restarts_under_a_running_pod,
    restarts.the_node_plugin_is_deleted_under_load,
    restarts.a_controller_dies_while_it_provisions,
]
