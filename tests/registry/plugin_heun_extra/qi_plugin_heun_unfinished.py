"""A plugin that is broken: it needs a module that isn't there."""

import a_module_that_is_not_there  # noqa: F401
