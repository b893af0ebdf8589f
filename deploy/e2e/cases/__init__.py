"""What is shown, in this order. A case gets the testbed.Cluster, and leaves the default namespace to be cleared."""
from . import examples, file_servers, install, observed, refused, residency, restarts, scale, snapshots, volumes

S3 = [
    install.everything_is_ready,
    install.the_nodes_are_registered,
    install.rights_are_the_golden_ones,
    install.the_cache_may_lie_in_the_pod,
    volumes.one_pod_writes_and_another_nodes_pod_reads,
    volumes.a_pod_that_is_not_root_writes_by_its_fs_group,
    volumes.a_sub_path_and_two_containers_see_one_volume,
    volumes.a_read_only_claim_refuses_writes,
    volumes.a_read_write_once_pod_claim_has_one_pod,
    volumes.a_static_volume_shows_a_data_set,
    volumes.a_static_volume_shows_a_whole_bucket,
    volumes.a_job_reads_a_data_set_once_a_node,
    volumes.a_second_pod_reads_from_the_nodes_disk,
    volumes.the_kernel_reads_ahead_as_far_as_the_volume_says,
    volumes.a_claim_grows_under_its_pod,
    volumes.another_class_of_attributes_reaches_a_running_pod,
    volumes.what_a_class_says_of_deletion_is_done,
    volumes.a_pod_names_a_directory_that_its_namespace_may_have,
    volumes.a_class_whose_user_has_no_right_to_the_prefix_is_told_on_the_pod,
    residency.pods_go_to_where_the_data_may_be_shown,
    residency.a_pod_that_must_be_elsewhere_gets_no_data,
    refused.what_cannot_be_mounted_is_told_on_the_pod,
    refused.what_cannot_be_made_is_told_on_the_claim,
    examples.every_example_is_taken_without_a_warning,
    examples.a_training_pod_reads_a_data_set,
    examples.an_inline_volume_and_a_notebooks,
    examples.global_team_and_user_data_are_read_by_those_in_the_table,
    observed.one_scrape_has_every_volume_of_its_node,
    observed.status_lists_the_mounts_of_its_node,
    observed.the_log_level_changes_without_a_restart,
    observed.a_secret_that_is_missing_is_told_on_the_pod,
    observed.a_worker_that_was_killed_is_told_on_its_pod,
    observed.a_key_that_was_revoked_is_told_on_the_pods_that_use_it,
    observed.a_renewed_secret_reaches_a_running_pod,
    observed.a_volume_that_is_full_is_told_on_its_pod,
    restarts.a_kubelet_restarts_under_a_running_pod,
    restarts.the_node_plugin_is_deleted_under_load,
    restarts.a_controller_dies_while_it_provisions,
    restarts.a_node_plugin_is_upgraded_when_its_node_was_drained,
    restarts.a_store_is_added_without_a_restart,
    scale.a_hundred_claims_and_fifty_pods,
    scale.nothing_is_left_of_volumes,
]

FILE_SERVER = [
    install.everything_is_ready,
    install.the_nodes_are_registered,
    install.rights_are_the_golden_ones,
    volumes.one_pod_writes_and_another_nodes_pod_reads,
    file_servers.a_pod_that_is_not_root_acts_as_the_table_says,
    volumes.a_sub_path_and_two_containers_see_one_volume,
    volumes.a_read_only_claim_refuses_writes,
    volumes.a_read_write_once_pod_claim_has_one_pod,
    volumes.a_claim_grows_under_its_pod,
    volumes.another_class_of_attributes_reaches_a_running_pod,
    file_servers.the_server_is_silent_under_running_pods,
    restarts.a_kubelet_restarts_under_a_running_pod,
    restarts.the_node_plugin_is_deleted_under_load,
    file_servers.nothing_is_left_of_volumes,
]

SNAPSHOTS = [
    snapshots.a_snapshot_is_restored_read_only_and_as_a_copy,
    snapshots.a_snapshot_stays_while_a_volume_shows_it_and_its_source_while_it_stays,
]

# The last case is about all that were before.
HDFS = [*FILE_SERVER[:-1], *SNAPSHOTS, FILE_SERVER[-1]]

OF = {"s3": S3, "nfs": FILE_SERVER, "hdfs": HDFS}
