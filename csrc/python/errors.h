// Errors that Python sees, with a message put together from values.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>  // in every file alike: the conversions are templates

#include <sstream>
#include <string>

namespace nvrm {

template <class... Values>
std::string written(const Values&... values) {
  std::ostringstream text;
  (text << ... << values);
  return text.str();
}

}  // namespace nvrm

#define NVRM_CHECK_VALUE(condition, ...)                                       \
  do {                                                                         \
    if (!(condition)) throw pybind11::value_error(nvrm::written(__VA_ARGS__)); \
  } while (false)

#define NVRM_CHECK_TYPE(condition, ...)                                       \
  do {                                                                        \
    if (!(condition)) throw pybind11::type_error(nvrm::written(__VA_ARGS__)); \
  } while (false)
