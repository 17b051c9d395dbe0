// A classic script, because modules do not load from file://. It says what is missing, else starts the page.
(function () {
  function say(text) {
    var alert = document.getElementById("alert");
    alert.textContent = text;
    alert.hidden = false;
    document.getElementById("loading").hidden = true;
  }
  try {
    var theme = localStorage.getItem("gsd-theme");
    if (theme) document.documentElement.dataset.theme = theme;
  } catch (error) {
    /* storage may be switched off */
  }
  if (location.protocol === "file:") {
    say("A browser loads no modules from a file. Run “gsd edit --explore FOLDER --open”, or serve the folder with any static server: python -m http.server.");
  } else if (typeof WebAssembly !== "object") {
    say("This browser has no WebAssembly, which the generator needs. It may be switched off in the settings.");
  } else {
    var module = document.createElement("script");
    module.type = "module";
    module.src = "app.js";
    module.onerror = function () {
      say("A file of this page is missing or could not be loaded. Copy the whole folder again.");
    };
    if (!("noModule" in module)) say("This browser is too old: it knows no JavaScript modules.");
    else document.head.append(module);
  }
})();
