// The page is complete without this: it only shows the copy buttons where copying is possible.
if (navigator.clipboard) {
  const status = document.getElementById("status");
  for (const button of document.querySelectorAll("button.copy")) {
    button.hidden = false;
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(button.previousElementSibling.textContent);
        button.textContent = status.textContent = "Copied";
      } catch {
        button.textContent = status.textContent = "Not permitted";
      }
      setTimeout(() => { button.textContent = "Copy"; status.textContent = ""; }, 2000);
    });
  }
}
