"use strict";
// Rows that do not have the words in them go while one types; without this the form does the same.
document.documentElement.dataset.script = "on"; // the button is not needed then
const filter = document.getElementById("filter");
filter.addEventListener("input", () => {
  document.body.toggleAttribute("data-filtered", filter.value.trim() !== "");
  const words = filter.value.toLowerCase().split(/\s+/);
  for (const row of document.querySelectorAll("tbody tr")) {
    const text = row.textContent.toLowerCase();
    row.hidden = !words.every((w) => text.includes(w));
  }
});
