// Runs before anything is painted: light or dark, if somebody has chosen.
"use strict";
try {
  const chosen = localStorage.getItem("hivemesh-theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
} catch {
  // Without storage it is as the system has it.
}
