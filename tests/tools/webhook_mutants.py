"""Old faults of delivering webhooks: one receiver, or one owner, held up everybody's messages."""

from collections.abc import Sequence

from tests.tools.mutant import Change, Mutant

_PLACES = "tests/contract/test_webhook_places.py"

OF_WEBHOOKS: Sequence[Mutant] = (
    Mutant(
        fault="an owner of many slow receivers holds up the webhooks of others",
        changes=(
            Change(
                file="scheduler/background/webhook_places.py",
                old="owners[one.owner] >= places.per_owner or ",
                new="",
            ),
        ),
        tests=(f"{_PLACES}::test_an_owner_of_many_receivers_that_answer_nothing_holds_up_no_other_owner",),
    ),
    Mutant(
        fault="a slow receiver of many messages holds up the webhooks of others",
        changes=(
            Change(
                file="scheduler/background/webhook_places.py",
                old="owners[one.owner] >= places.per_owner or receivers[one.name] >= places.per_receiver",
                new="False",
            ),
        ),
        tests=(f"{_PLACES}::test_messages_of_others_arrive_while_one_receiver_answers_none_of_many",),
    ),
    Mutant(
        fault="webhooks are taken in batches, each as slow as its slowest",
        changes=(
            Change(
                file="scheduler/background/webhook_delivery.py",
                old="import FIRST_COMPLETED,",
                new="import ALL_COMPLETED as FIRST_COMPLETED,",
            ),
            Change(
                file="scheduler/background/webhook_delivery.py",
                old="timeout=self.every_seconds, return_when",
                new="return_when",
            ),
        ),
        tests=(f"{_PLACES}::test_messages_of_others_arrive_while_one_receiver_answers_none_of_many",),
    ),
    Mutant(
        fault="webhooks share fewer connections than are tried at once",
        changes=(Change(file="scheduler/intake/addresses.py", old="max_connections=None", new="max_connections=8"),),
        tests=(f"{_PLACES}::test_as_many_messages_are_tried_at_once_as_there_are_places",),
    ),
    Mutant(
        fault="receivers that failed are tried before those that did not",
        changes=(
            Change(
                file="scheduler/background/webhook_places.py",
                old="key=lambda one: (one.failing, ",
                new="key=lambda one: (",
            ),
        ),
        tests=(f"{_PLACES}::test_receivers_that_failed_are_tried_after_the_others_however_long_theirs_were_due",),
    ),
    Mutant(
        fault="a receiver that trickles is never given up",
        changes=(
            Change(
                file="scheduler/intake/addresses.py",
                old="return BoundedStream(stream, deadline=deadline)",
                new="return stream",
            ),
        ),
        tests=("tests/contract/test_webhooks.py::test_a_receiver_that_trickles_its_answer_is_given_up",),
    ),
    Mutant(
        fault="it is looked for whose messages are due after each one, however long that takes",
        changes=(
            Change(
                file="scheduler/background/webhook_delivery.py",
                old="afresh=not under_way",
                new="afresh=True",
            ),
        ),
        tests=(f"{_PLACES}::test_others_are_looked_for_as_often_where_a_look_takes_long_as_where_it_does_not",),
    ),
    Mutant(
        fault="a receiver that failed once waits for as long as others have messages",
        changes=(
            Change(
                file="scheduler/background/webhook_places.py",
                old="well >= places.total - left:",
                new="False:",
            ),
        ),
        tests=(
            "tests/unit/test_webhook_places.py"
            "::test_those_that_failed_have_a_few_places_while_others_wait_without_an_end",
        ),
    ),
    Mutant(
        fault="a webhook's address with an accent ends the scheduler process",
        changes=(
            Change(
                file="scheduler/background/webhook_delivery.py",
                old="as_sent(delivery.url),",
                new="delivery.url,",
            ),
        ),
        tests=("tests/contract/test_webhooks.py::test_a_receiver_is_met_at_an_address_of_any_characters",),
    ),
    Mutant(
        fault="a webhook's message that cannot be made ends the scheduler process",
        changes=(
            Change(
                file="scheduler/background/webhook_delivery.py",
                old="        except Exception as error:\n",
                new="        except ZeroDivisionError as error:\n",
            ),
        ),
        tests=("tests/contract/test_webhooks.py::test_a_message_that_nobody_can_make_holds_up_no_other",),
    ),
)
