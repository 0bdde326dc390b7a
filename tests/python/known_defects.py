"""What the server still does otherwise than a driver or a user expects: test, and why it fails.

A line goes when its defect does; docs/known-defects.md says the same to users.
"""

NOT_WORKED_OUT = "constants of a policy are worked out when it is read, but for those of table functions"
ELSEWHERE = ("a comparison", "a comparison, by far", "inside", "a branch", "a list", "a subquery", "beside a subquery", "an array")
READY = "test_what_is_wrong_is_named_and_nobody_is_told_that_it_is_ready"
WRONG_FILES = (
    "the key of another certificate",
    "no key in the file of the key",
    "no certificate in the file of certificates",
    "an authority of clients that is none",
)

KNOWN = {
    "test_formats.py::test_malformed_parquet[PARQUET-1481]": "whoever creates an external table is told the whole path of a damaged file",
    "test_planning.py::test_constants_count_together": "each constant that is worked out while planning counts by itself, and no longer than that takes",
    "test_drain.py::test_who_watches_does_not_hold_the_process": "a watch of the health service holds the process until the time of the drain is up",
    "test_s3_environment.py::test_what_is_missing_or_wrong_is_an_error[the cloud's metadata service]": "an endpoint that is refused is an internal error",
    "test_s3_environment.py::test_no_variable_leads_to_the_metadata_service_of_a_cloud[AWS_ENDPOINT]": "of the variables of an endpoint only AWS_ENDPOINT_URL is looked at",
    **{f"test_policy_constants.py::test_on_a_view_and_of_a_mask[{case}]": NOT_WORKED_OUT for case in ("a view", "a mask")},
    **{f"test_policy_constants.py::test_elsewhere[{case}]": NOT_WORKED_OUT for case in ELSEWHERE},
    **{f"test_tls.py::{READY}[{case}]": "the files of [tls] are read after the server said that it is ready, and what is wrong is not named" for case in WRONG_FILES},
}
