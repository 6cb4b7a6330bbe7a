// Sets the colours before anything is painted. `auto` follows the system; the choice is kept for this browser.
"use strict";
(() => {
  let kept = "auto";
  try { kept = localStorage.getItem("asynclb.theme") || "auto"; } catch { /* storage is closed: as the system has it */ }
  if (kept === "light" || kept === "dark") document.documentElement.dataset.theme = kept;
})();
